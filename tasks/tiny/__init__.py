"""The embedded model, made from scratch: rendered footage, its two encoders, and the figures of the finished model."""
