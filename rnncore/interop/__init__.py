"""Other worlds: each is imported when it is asked for, and needs its library installed."""
