"""A portrait that is drawn one frame at a time: by sliders, or after a camera."""
