//! Access to the service inside another, as in tower-http.

/// Defines `get_ref`, `get_mut` and `into_inner` for a service with a field `inner` of type `S`.
macro_rules! inner_service_accessors {
    () => {
        /// Returns the inner service.
        pub fn get_ref(&self) -> &S {
            &self.inner
        }

        /// Returns the inner service, to change it.
        pub fn get_mut(&mut self) -> &mut S {
            &mut self.inner
        }

        /// Drops this service, and returns the inner one.
        pub fn into_inner(self) -> S {
            self.inner
        }
    };
}

pub(crate) use inner_service_accessors;

#[cfg(test)]
mod tests {
    use crate::SseGuardLayer;
    use crate::cors::CorsLayer;
    use crate::early::EarlyLayer;
    use crate::guard::testing::ScriptedUpstream;
    use crate::resume::ResumeLayer;
    use crate::unavailable::UnavailableLayer;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Empty};
    use std::convert::Infallible;
    use tower::{Layer, ServiceExt, service_fn};

    #[test]
    fn services_give_access_to_the_inner_service() {
        let stack = SseGuardLayer::new()
            .early(EarlyLayer::default())
            .resume(ResumeLayer::new());
        let mut service = CorsLayer::new().layer(UnavailableLayer::new().layer(stack.layer(1)));
        let unavailable = service.get_mut();
        let resume = unavailable.get_mut().get_mut().get_mut();
        *resume.get_mut() += 1;
        assert_eq!(
            service.get_ref().get_ref().get_ref().get_ref().get_ref(),
            &2
        );
        let guard = service.into_inner().into_inner();
        assert_eq!(guard.into_inner().into_inner().into_inner(), 2);
    }

    #[tokio::test]
    async fn bodies_give_access_to_the_inner_body_until_its_end() {
        let stack = SseGuardLayer::new()
            .early(EarlyLayer::default())
            .resume(ResumeLayer::new());
        let layer = (CorsLayer::new(), UnavailableLayer::new(), stack);
        let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| async {
            Ok::<_, Infallible>(ScriptedUpstream::new().send("data: 1\n\n").response())
        }));
        for accept in ["text/event-stream", "*/*"] {
            let request = Request::get("/").header("accept", accept);
            let request = request.body(Empty::new()).unwrap();
            let response = service.clone().oneshot(request).await.unwrap();
            let mut body = Box::pin(response.into_body());
            // Inside of the bodies of the two outermost layers.
            let guarded = body.get_ref().unwrap().get_ref().unwrap();
            let resumed = guarded.get_ref().unwrap().get_ref().unwrap();
            assert!(resumed.get_ref().is_some());
            while body.frame().await.is_some() {}
            let guarded = body.get_ref().unwrap().get_ref().unwrap();
            assert!(guarded.get_ref().is_none());
        }
    }
}
