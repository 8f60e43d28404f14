"""Chat questions of our own, two turns each in MT-Bench's eight categories, and the runs that ask them."""
