//! What an administrator of the area sees: deliveries and the conservation check, over gRPC.

use anyhow::Context as _;
use tonic::transport::Channel;
use waymark_proto::v1;
use waymark_proto::v1::admin_service_client::AdminServiceClient;

use crate::cli::failure::Refusal;

/// Deliveries asked for in one page.
const PAGE: u32 = 200;
/// The most pages that are read.
const PAGES_MAX: usize = 200;

/// The administrator.
pub(super) struct Admin(AdminServiceClient<Channel>);

impl Admin {
    /// Takes a connection of an administrator.
    pub(super) fn new(channel: Channel) -> Self {
        Self(AdminServiceClient::new(channel))
    }

    /// Every delivery, in the order of its making.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn deliveries(&self) -> anyhow::Result<Vec<v1::Delivery>> {
        let mut all = Vec::new();
        let mut ask = v1::ListDeliveriesRequest {
            page_size: PAGE,
            ..v1::ListDeliveriesRequest::default()
        };
        for _ in 0..PAGES_MAX {
            let page = self
                .0
                .clone()
                .list_deliveries(ask.clone())
                .await
                .map_err(Refusal::from);
            let page = page.context("list deliveries")?.into_inner();
            all.extend(page.deliveries);
            if page.next_page_token.is_empty() {
                break;
            }
            ask.page_token = page.next_page_token;
        }
        // Ids of deliveries begin with the time of making.
        all.sort_by(|a, b| a.delivery_id.cmp(&b.delivery_id));
        Ok(all)
    }

    /// The conservation check.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn conservation(&self) -> anyhow::Result<v1::GetConservationResponse> {
        let answer = self
            .0
            .clone()
            .get_conservation(v1::GetConservationRequest {})
            .await
            .map_err(Refusal::from);
        Ok(answer
            .context("ask for the conservation check")?
            .into_inner())
    }
}
