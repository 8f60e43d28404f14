"""What runs between the sandbox and the program: started as scripts of their own, so standard library only."""
