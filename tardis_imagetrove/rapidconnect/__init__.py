"""Deprecated: the paths that settings of 0.1 name. They lead to ``tardis_imagetrove.signin``; check W111 asks to change them."""
