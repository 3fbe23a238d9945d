"""The suite. A real package, so that no other installed ``tests`` can take its place."""
