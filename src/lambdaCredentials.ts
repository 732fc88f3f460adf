/**
 * Stands in for `@aws-sdk/credential-provider-node` in the bundles (`Alias` in template.yaml):
 * Lambda gives credentials in the environment, and the providers for SSO, profiles, processes and
 * instance metadata are a quarter of a bundle that no function ever uses.
 */
export { fromEnv as defaultProvider } from '@aws-sdk/credential-provider-env';
