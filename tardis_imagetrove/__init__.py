"""ImageTrove for MyTARDIS: from the scanner's C-STORE to the researcher's dataset page."""

__version__ = "0.2.0"
