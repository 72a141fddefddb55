"""Methods that others are compared with, on the same networks, actor and order of updates."""
