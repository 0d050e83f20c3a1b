"""Film: how files are opened, what their clocks and pictures are, what is seen of each frame and kept of it."""
