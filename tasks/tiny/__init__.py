"""The embedded model, from nothing: rendered footage, its two encoders, and the figures of the finished model."""
