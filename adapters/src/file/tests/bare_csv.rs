//! A spreadsheet without a manifest.

use super::*;

#[tokio::test]
async fn a_bare_csv_is_taken_where_that_was_agreed_once_it_lies_still() {
    let ground = Ground::new();
    let csv = "message.environment;referral;state;at\r\ntest;WM-AAAAA-BBBBB-CCCCC;accepted;\r\ntest;WM-AAAAA-BBBBB-DDDDD;declined;2026-03-02T10:00:00Z\r\n";
    ground.leave("inbox", "march.csv", format!("\u{feff}{csv}"));
    assert_eq!(
        ground
            .collect(&ground.adapter(), "bare_csv_after_s = 60")
            .await
            .taken,
        0
    );
    assert_eq!(
        ground
            .collect(&ground.late_adapter(), "bare_csv_after_s = 60")
            .await
            .taken,
        1
    );
    let keys: Vec<String> = ground
        .taken()
        .iter()
        .map(|m| m.message_key.clone())
        .collect();
    assert!(
        keys[0].starts_with("csv-") && keys[0].ends_with("/2") && keys[1].ends_with("/3"),
        "{keys:?}"
    );
    assert_eq!(ground.names("done"), ["march.csv"]);
    ground.leave("inbox", "april.csv", csv);
    ground.collect(&ground.late_adapter(), "").await;
    assert_eq!(
        ground.names("failed"),
        ["april.csv", "april.csv.error.json"]
    );
}
