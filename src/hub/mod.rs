//! The hub, pure: topics, subscriptions, topic logs, replay and gaps. Decides who receives what; sends nothing.
