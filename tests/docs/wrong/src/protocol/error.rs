//! A source with a title that the page of errors leaves out, for the test of the documentation's check.

fn title(self) -> &'static str {
    match self {
        _ => "Left out",
    }
}

fn detail(self) -> &'static str {}
