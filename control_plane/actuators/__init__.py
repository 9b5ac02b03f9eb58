"""What turns a wanted number of processes into processes: here, on this host."""
