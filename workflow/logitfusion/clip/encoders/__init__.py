"""Image and text encoders: CLIP, auxiliary ones, and a CLIP that is built of two towers."""
