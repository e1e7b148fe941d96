"""What this package does beside other people's code for the same, a file for each thing that is done."""
