"""One purchase, one record, one state machine: what is bought, what it cost, what to do next."""
