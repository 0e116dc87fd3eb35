//! The configuration, resolved and validated: flag over environment over file over default.
