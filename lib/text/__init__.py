"""Numbers as people read them, and text from outside made safe to show."""
