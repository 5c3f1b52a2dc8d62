"""What all rooms stand on: files, progress, compilation, processes, types of numbers."""
