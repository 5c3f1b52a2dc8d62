"""Things to try the package on: the demo, a sample checkpoint with a video, a page in the browser."""
