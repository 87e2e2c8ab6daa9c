"""System checks: what is wrong with a site's configuration, told before it loses anybody a scan."""
