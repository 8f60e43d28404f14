"""Models under test. Importing this package is light: each module brings in what it needs when it is imported."""
