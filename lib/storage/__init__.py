"""Files that survive a crash: checkpoints and digit sets."""
