"""DICOM: fields (names and text), files (headers on disk), vendor (private elements of MR vendors)."""
