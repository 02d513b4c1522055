"""The processes of a run: supervisor, workers, housekeeper, control, and what each is started with."""
