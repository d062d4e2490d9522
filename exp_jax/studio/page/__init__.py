"""The web page of a studio (gradio): its layout, its widgets, what it shows of a job."""
