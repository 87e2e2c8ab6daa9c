"""``manage.py imagetrove_selftest``: try the whole way of a series on the running site."""

from __future__ import annotations

import math
import signal

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...mytardis import mytardis
from ...operations.selftest import Outcome, SelfTest, calling_ae, new_token
from ...scp.admission import parse_ae_title
from ...scu import Peer


class Command(BaseCommand):
    help = (
        "Send a generated series to the running receiver as an instrument would, wait for it, check archive, "
        "conversions, metadata, permission and download, and remove all of it again. Ends with status 0 if all is well."
    )
    requires_system_checks = ("imagetrove",)  # other apps and signing in have their own commands

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="where the receiver is (default: 127.0.0.1)")
        parser.add_argument("--port", type=int, default=4242)
        parser.add_argument("--ae-title", default="IMAGETROVE", help="AE title of the receiver")
        parser.add_argument(
            "--timeout",
            type=float,
            default=120,
            help="seconds that archiving, and then each conversion, may take (default: 120)",
        )
        parser.add_argument("--storage-box", help="name of the box to use (default: MyTARDIS's default)")
        parser.add_argument(
            "--remove", metavar="TOKEN", help="remove leftovers of a self-test that was killed, and exit"
        )

    def handle(self, **options: object) -> None:
        if not 0 < options["port"] < 65536:
            raise CommandError(f"--port {options['port']}: must be from 1 to 65535.")
        if not (options["timeout"] > 0 and math.isfinite(options["timeout"])):
            raise CommandError(f"--timeout {options['timeout']}: must be a number of seconds above 0.")
        try:
            ae_title = parse_ae_title(options["ae_title"])
        except ValueError as error:
            raise CommandError(f"--ae-title: {error}.") from error
        box_id = None
        if options["storage_box"]:
            try:
                box_id = mytardis().box_id(options["storage_box"])
            except UnicodeEncodeError as error:  # what the shell had in another encoding
                raise CommandError("--storage-box: not text in UTF-8.") from error
            if box_id is None:
                raise CommandError(f"Storage box {options['storage_box']!r} does not exist.")
        token = options["remove"] or new_token()
        peer = Peer(options["host"], options["port"], ae_title, calling_ae(token))
        test = SelfTest(token, peer, options["timeout"], box_id, self._tell)
        self.stdout.write(f"self-test {token}")
        # What is made must also be removed when an operator or a service manager stops it.
        former = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            well = test.remove() if options["remove"] else test.run()
        except KeyboardInterrupt:
            raise CommandError(f"interrupted; --remove {token} removes leftovers") from None
        finally:
            signal.signal(signal.SIGTERM, former)
        if not well:
            raise CommandError(f"{test.failures} step{'s' if test.failures > 1 else ''} failed")
        self.stdout.write("All is well.")

    def _tell(self, outcome: Outcome) -> None:
        self.stdout.write(f"{outcome.step:<16} {'ok' if outcome.ok else 'FAILED':<7} {outcome.text}")
        if outcome.look_at:
            self.stdout.write(f"{'':<16} check: {outcome.look_at}")
        self.stdout.flush()
