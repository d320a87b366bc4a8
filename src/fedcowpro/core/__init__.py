"""What every room needs and no medicine: errors, files that are whole or not there, threads, versions."""
