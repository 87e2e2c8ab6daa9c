"""Watched folders: a door into the spool for what instruments leave as files on a mount. Knows no Django.

``source`` says what a folder source is, ``tree`` lists what is in it, ``stability`` tells when it is complete,
``journal`` remembers what was taken, ``importing`` takes it into the spool, ``clearing`` moves or deletes it when it
is archived, and ``watcher`` does all that over and over.
"""
