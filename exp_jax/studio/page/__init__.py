"""The web page of a studio (gradio): its layout, its widgets, what it shows of a job. Gradio is told to call nobody."""

import os

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported
os.environ.setdefault('HF_HUB_OFFLINE', '1')
