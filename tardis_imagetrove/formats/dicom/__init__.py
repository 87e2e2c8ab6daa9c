"""Reading DICOM. No Django."""
