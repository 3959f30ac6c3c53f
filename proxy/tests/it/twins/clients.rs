//! Clients that go at any point, or never come to the point.

use super::*;

#[test]
fn clients_that_die_at_any_stage_of_their_stream_leave_nothing_behind_on_any_way() {
    let watched = Watched::start(&[], |received, to| answer(&received, to));
    for way in Way::TWINS {
        for death in Death::ALL {
            for path in ["/mute", "/held"] {
                for uploads in [false, true] {
                    let before = watched.origin.served();
                    let mut client = match uploads {
                        true => watched.post_half(way, path),
                        false => watched.get(way, path),
                    };
                    if path == "/held" {
                        assert_eq!(client.opened("\n\n"), "data: 1\n\n");
                    } else {
                        wait_until("the request", || watched.origin.served() > before);
                    }
                    client.die(death);
                    watched.origin.wait_for_open(0);
                    watched.wait_for_a_slot();
                }
            }
        }
    }
    assert!(!watched.ways.proxy.log().contains("\"ERROR\""));
    watched.assert_nothing_is_left();
}
