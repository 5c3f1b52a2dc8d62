"""What everything here stands on: files, progress, compilation, processes, types of numbers."""
