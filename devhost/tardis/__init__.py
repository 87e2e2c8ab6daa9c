"""The part of MyTARDIS' package that an app touches, under the same names."""
