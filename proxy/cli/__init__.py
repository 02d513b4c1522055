"""The commands of `warmstart`, one file each."""
