"""Reports the first session from each country at each listener, by a GeoIP database."""
