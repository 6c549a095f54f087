"""The console command `intune-gpu`: look at data, write a starter recipe, make synthetic logs, look at the machine."""
