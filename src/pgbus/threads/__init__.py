"""The synchronous shell: threads, connections and clocks around the core and the store."""
