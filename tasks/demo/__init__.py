"""The demo: footage rendered with known truth, and the page that shows what became of it."""
