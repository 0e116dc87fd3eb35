//! Who may publish: bearer tokens, compared in constant time.
