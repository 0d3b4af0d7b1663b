"""What a function file may use; it imports the parts by name, so that each states what it needs."""
