"""Admission, placement and relay of requests among workers."""
