"""The GPU half of the engine. Whoever changes the CPU half need not know it."""
