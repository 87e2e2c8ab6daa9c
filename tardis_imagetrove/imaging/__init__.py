"""Images out of DICOM: headers, stacks, volumes, NIfTI and MINC2. No Django."""
