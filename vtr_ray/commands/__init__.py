"""What each command of the command line does; `jobs/` calls the same."""
