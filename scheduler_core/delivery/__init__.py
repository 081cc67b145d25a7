"""Delivery: one attempt, one request, one outcome. The only importer of httpx, httptools and aiohappyeyeballs."""
