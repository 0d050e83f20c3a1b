"""One detector per file: each finds one kind of boundary between shots in the signals of a scan, and reads no video."""
