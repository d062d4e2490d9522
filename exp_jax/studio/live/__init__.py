"""Portraits that are drawn one frame at a time, by sliders or after a camera: sessions of a worker
process of their own."""
