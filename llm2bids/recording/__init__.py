"""One scan: the values of every unit at every generated token, and the calibration of a dataset."""
