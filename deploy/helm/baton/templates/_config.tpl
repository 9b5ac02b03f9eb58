{{/* The settings files of all processes: by the ConfigMap's last word, its files. */}}
{{- define "baton.configFiles" -}}
gateway:
  baton.toml: {{ include "baton.gatewayConfig" . | toJson }}
control:
  baton.toml: {{ include "baton.controlConfig" . | toJson }}
  planner.toml: {{ include "baton.plannerConfig" . | toJson }}
{{- if .Values.dashboard.enabled }}
dashboard:
  baton.toml: {{ include "baton.dashboardConfig" . | toJson }}
{{- end }}
{{- range include "baton.pools" . | fromJsonArray }}
{{ .name }}:
  baton.toml: {{ include "baton.workerConfig" (dict "root" $ "pool" .) | toJson }}
{{- end }}
{{- end -}}

{{/* Takes (dict "root" $ "file" WORD): the checksum by which pods start anew after a change. */}}
{{- define "baton.configSum" -}}
{{- get (include "baton.configFiles" .root | fromYaml) .file | toJson | sha256sum -}}
{{- end -}}

{{- define "baton.gatewayConfig" -}}
{{- $gateway := .Values.gateway -}}
{{- $own := dict
  "host" "0.0.0.0" "port" 8000
  "model" (include "baton.modelPath" .)
  "served_model_name" .Values.model.servedName
  "control_address" (include "baton.controlAddresses" .)
  "drain_s" $gateway.drainSeconds
-}}
{{- if include "baton.tenantsInFile" . }}{{ $_ := set $own "tenants_file" "/etc/baton-tenants/tenants.toml" }}{{ end -}}
{{- if $gateway.tlsSecret -}}
{{- $_ := set $own "tls_certificate" "/etc/baton-tls/tls.crt" -}}
{{- $_ := set $own "tls_key" "/etc/baton-tls/tls.key" -}}
{{- end -}}
{{- $_ := set $own "grpc_port" (ternary 8001 -1 $gateway.grpc) -}}
{{ include "baton.toml" (dict "table" "gateway" "settings" (merge $own $gateway.settings)) }}
{{- end -}}

{{- define "baton.controlConfig" -}}
{{- $control := .Values.control -}}
{{- $name := include "baton.fullname" . -}}
{{- $own := dict
  "host" "0.0.0.0" "port" 8090 "http_port" 8091 "metrics_port" 9100
  "plan" $control.plan
  "planner_file" "/etc/baton/planner.toml"
  "prometheus_url" $control.prometheusUrl
  "audit_file" "/var/lib/baton/audit.jsonl"
  "election" (include "baton.election" .)
  "kube_namespace" .Release.Namespace
  "kube_lease" (printf "%s-control" $name)
  "kube_prefill" "" "kube_decode" ""
  "actuator" (ternary "kubernetes" "advisory" (ne (include "baton.controlScales" .) ""))
-}}
{{- $slowest := 0 -}}
{{- range include "baton.pools" . | fromJsonArray -}}
{{- if eq .scaling.by "control" }}{{ $key := printf "kube_%s" .role }}{{ $_ := set $own $key (printf "%s,%s/%s" (get $own $key) .kind .fullname | trimPrefix ",") }}{{ end -}}
{{- $slowest = max $slowest (int .startupSeconds) -}}
{{- end -}}
{{- $_ := set $own "ready_timeout_s" (add $slowest 60) -}}
{{- if not $control.prometheusUrl -}}
{{- $_ := set $own "gateway_metrics" (printf "%s://%s-gateway.%s.svc:%d/metrics" (ternary "https" "http" (ne .Values.gateway.tlsSecret "")) $name .Release.Namespace (int .Values.gateway.service.port)) -}}
{{- end -}}
{{ include "baton.toml" (dict "table" "control" "settings" (merge $own $control.settings)) }}
{{- end -}}

{{/* Pools' names begin with the release's name, and so do the kinds of hardware. */}}
{{- define "baton.plannerConfig" -}}
{{- $planner := deepCopy .Values.control.planner -}}
{{- range $planner.hardware -}}
{{- $_ := set . "name" (printf "%s-%s" (include "baton.fullname" $) .name) -}}
{{- end -}}
{{ include "baton.nestedToml" (dict "table" "planner" "content" $planner) }}
{{- end -}}

{{- define "baton.dashboardConfig" -}}
{{- $name := include "baton.fullname" . -}}
{{- $own := dict
  "host" "0.0.0.0" "port" 8080
  "operator_url" (printf "http://%s-control.%s.svc:8091" $name .Release.Namespace)
  "gateway_urls" (printf "%s://%s-gateway.%s.svc:%d" (ternary "https" "http" (ne .Values.gateway.tlsSecret "")) $name .Release.Namespace (int .Values.gateway.service.port))
  "prometheus_url" .Values.control.prometheusUrl
-}}
{{ include "baton.toml" (dict "table" "dashboard" "settings" $own) }}
{{- end -}}

{{/* Takes (dict "root" $ "pool" POOL). */}}
{{- define "baton.workerConfig" -}}
{{- $own := dict
  "host" "0.0.0.0" "port" 9000 "fabric_port" 9001 "metrics_port" 9100
  "model" (include "baton.modelPath" .root)
  "served_model_name" .root.Values.model.servedName
  "control_address" (include "baton.controlAddresses" .root)
  "kv_memory" .pool.kvMemory
  "lease_s" .pool.leaseSeconds
  "drain_timeout_s" .pool.drainSeconds
-}}
{{- if .pool.kvTlsSecret -}}
{{- $_ := set $own "kv_tls_ca" "/etc/baton-kv-tls/ca.crt" -}}
{{- $_ := set $own "kv_tls_cert" "/etc/baton-kv-tls/tls.crt" -}}
{{- $_ := set $own "kv_tls_key" "/etc/baton-kv-tls/tls.key" -}}
{{- end -}}
{{ include "baton.toml" (dict "table" .pool.role "settings" (merge $own .pool.settings)) }}
{{- end -}}

{{/* Of `baton up` beside a Ray head, whose metrics are on port 8080. */}}
{{- define "baton.kuberayConfig" -}}
{{- $workers := .Values.workers -}}
{{- $own := dict
  "host" "0.0.0.0" "port" 8000 "control_port" 8090 "http_port" 8091
  "dashboard_port" (ternary 8082 -1 .Values.dashboard.enabled)
  "model" (include "baton.modelPath" .)
  "served_model_name" .Values.model.servedName
  "ray_address" "auto"
  "ray_cpus" .Values.kuberay.workerCpus
  "ray_gpus" $workers.gpu.count
  "ray_wait_s" $workers.startupSeconds
  "prefill" .Values.kuberay.prefill
  "decode" .Values.kuberay.decode
  "max_workers" (mul (int .Values.kuberay.nodes) 8)
  "kv_memory" $workers.kvMemory
  "plan" .Values.control.plan
  "planner_file" "/etc/baton/planner.toml"
  "drain_s" $workers.drainSeconds
  "ready_timeout_s" $workers.startupSeconds
  "verbose" true
-}}
{{- if include "baton.tenantsInFile" . }}{{ $_ := set $own "tenants_file" "/etc/baton-tenants/tenants.toml" }}{{ end -}}
{{ include "baton.toml" (dict "table" "up" "settings" (merge $own .Values.kuberay.settings)) }}
{{- end -}}
