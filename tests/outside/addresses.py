"""Reads addresses, one to a line, and prints for each whether Python takes it for one of the open
internet: `1` or `0`."""

import ipaddress
import sys

for line in sys.stdin.read().split():
    address = ipaddress.ip_address(line)
    is_open = address.is_global and not address.is_multicast and not address.is_reserved
    is_site_local = address.version == 6 and address.is_site_local
    print(int(is_open and not is_site_local))
